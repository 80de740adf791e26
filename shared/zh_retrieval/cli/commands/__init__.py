"""The commands of `zh-retrieval`, one file each: HELP, register(parser), run(arguments) -> exit status."""
