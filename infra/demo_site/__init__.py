"""A small site for a browser, on the whole pipeline: click around, and see the timelines grow."""
