"""What runs inside the box: the browser's driver and the made sites. Standard library and playwright alone; imports
nothing of this repository but its own folder, which is all of it that a box is shown."""
