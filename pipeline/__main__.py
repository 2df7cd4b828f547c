"""`python -m pipeline`."""

from pipeline import bugs
from pipeline.cli import end, main

bugs.keep_quiet()
end(main())
