"""OpenAI's formats: chat completions, completions and responses, and what these have in common."""
