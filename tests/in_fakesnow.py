"""Run statements in fakesnow, in an environment of its own: it takes another sqlglot than Paystream does.

Reads a pickled list of statements from standard input and writes the pickled list of their rows to standard output.
"""

import pickle
import sys
import warnings

import fakesnow
import snowflake.connector


def main() -> None:
    statements = pickle.load(sys.stdin.buffer)
    warnings.simplefilter("ignore")
    with fakesnow.patch():
        cursor = snowflake.connector.connect(database="paystream", schema="paystream").cursor()
        pickle.dump([cursor.execute(statement).fetchall() for statement in statements], sys.stdout.buffer)


if __name__ == "__main__":
    main()
