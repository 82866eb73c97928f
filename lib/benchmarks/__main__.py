"""`python -m lib.benchmarks`: see `lib.benchmarks.run`."""

from lib.benchmarks.run import main

if __name__ == "__main__":
    main()
