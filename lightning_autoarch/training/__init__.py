"""One candidate: build it, train it (once, or once a fold), report the result."""
