"""Complete experiment files, shipped with the wheel as ``launch.configs``."""
