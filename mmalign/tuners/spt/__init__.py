"""SPT: sensitivity-aware visual parameter-efficient fine-tuning (arXiv 2303.08566)."""
