"""What becomes a prompt: chat templates, a user's text and visuals, and their pixels."""
