"""The command line, the settings and the connections that every part of Paystream shares."""
