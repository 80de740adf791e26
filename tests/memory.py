"""What a program of a test begins with to see how much memory something needs. Linux only."""

WATCH = """
import threading, time

def used():
    return int(next(line for line in open("/proc/self/status") if line.startswith("RssAnon")).split()[1]) / 1000

def watch(peak):
    def look():
        while True:
            peak[0] = max(peak[0], used())
            time.sleep(0.005)

    threading.Thread(target=look, daemon=True).start()
"""
"""Defines `used()`, this process's own memory in MB, and `watch(peak)`, which keeps the most of it in `peak[0]`."""
