"""From a stack and prompts to masks."""
