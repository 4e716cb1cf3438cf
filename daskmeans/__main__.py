"""`python -m daskmeans`: the command line."""

from daskmeans.cli import main

main()
