"""One candidate: build it, train it (once, or once a fold), say what came of it."""
