"""What every writer needs: atomic files and folders, JSON, work that resumes, remote addresses."""
