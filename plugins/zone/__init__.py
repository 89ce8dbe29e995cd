"""The records of the DNS that virtual hosts need: `records` says which, `check` compares them with what there is."""
