"""HST: hierarchical side-tuning (arXiv 2310.05393), and ladder side-tuning (arXiv 2206.06522) as its detached mode."""
