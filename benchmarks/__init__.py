"""Side-by-side measurements against the stock tools; each module is a script of its own."""
