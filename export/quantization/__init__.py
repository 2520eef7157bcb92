"""Int8 and float16 files, kept only where they are as accurate as float32 and faster."""
