"""Where captioning runs: this process, or a Ray cluster."""
