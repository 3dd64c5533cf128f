import os
import threading
import time

threading.Thread(target=lambda: time.sleep(3600), daemon=True, name="telemetry-pump").start()


def handler(event, context):
    return {"threads": threading.active_count(), "pid": os.getpid()}
