"""Items: reading, describing, splitting and preparing labelled images."""
