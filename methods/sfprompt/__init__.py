"""SFPrompt: a frozen body at hosts that keep nothing; a prompt and the tail at the clients."""
