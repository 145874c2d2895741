"""Other engines in front of the same tables, each as its experts would write it, to be measured beside ours."""
