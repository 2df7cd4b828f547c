"""`python -m pipeline`."""

from pipeline.cli import end, main

end(main())
