"""Updates with prompts that are computed once for all their responses, beside updates with a prompt for each."""
