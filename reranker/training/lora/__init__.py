"""LoRA training of the base model on histories."""
