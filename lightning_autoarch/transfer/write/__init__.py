"""All copies or none, and the proof that a widened module computes what its source did."""
