"""Knowledge inheritance and fine-tuning."""
