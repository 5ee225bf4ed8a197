"""Starting runtimes: SGLang on CPU or GPU, the pocket pair, and the project's own environment."""
