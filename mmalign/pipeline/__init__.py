"""A recipe is a list of stages; each stage is a folder that resumes and is skipped once done."""
