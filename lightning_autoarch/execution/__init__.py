"""Where trials run: the loop over the trials of a study, and the executors that train them."""
