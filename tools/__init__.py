"""Scripts over the library: check goldens, run the demo, make cards."""
