"""Checks that are sentences: each is printed, what failed is counted, and the program ends accordingly."""

import sys

failed = []


def check(sentence, ok, said=""):
    """Says whether it is so, and what was answered."""
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}" + (f"\n       {said}" if said else ""), flush=True)
    if not ok:
        failed.append(sentence)


def skipped(what):
    """Says loudly what is not known after this run."""
    print(f"\n*** SKIPPED: kubernetes: {what} ***\n", file=sys.stderr, flush=True)


def finish():
    """Ends the program."""
    sys.exit(f"{len(failed)} checks failed:\n  " + "\n  ".join(failed) if failed else 0)
