"""Int8 and float16 files, with a verdict on accuracy and speed."""
