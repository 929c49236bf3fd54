"""Run notebook cells as Flyte 2 tasks on clusters that live exactly as long as the kernel."""
