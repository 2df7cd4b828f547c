"""The demonstration: a day of real traffic and a few visitors, through the whole pipeline."""
