"""Floor 2: from files on the disk to one array of faces, without Keras."""
