"""A loaded model at work: a video encoded once, questions about it, batches."""
