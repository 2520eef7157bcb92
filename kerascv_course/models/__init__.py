"""Network families: a file is a family, a function is a variant, entered in `kerascv_course.models.registry`."""
