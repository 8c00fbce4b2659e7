"""What the program costs, against floors and peers measured in the same run.

``python -m bench`` from the checkout (or ``make bench``); nothing of it is installed.
Every number is a median over rounds in which the product, and the raw driver that does
the same work (the *floor*), take turns. Nothing here asserts a time.
"""
