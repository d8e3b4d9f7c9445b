"""What an epoch leaves is scored and saved beside the next epoch, on a thread."""

from concurrent import futures

from dcgan.common.console import tell

# Seconds until what is waited for is told
SOON = 2


class Beside:
    """Does one job at a time on a thread. What a job raises comes out of wait().

    At the block's end it waits for the last one. possible: False does each at once.
    """

    def __init__(self, possible=True):
        self.possible, self.job = possible, None

    def __enter__(self):
        self.thread = futures.ThreadPoolExecutor(1)
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:  # else there is a worse error, or the job's own
                self.wait()
        finally:
            self.thread.shutdown()

    def start(self, job):
        """Start job(), once the one before is through."""
        self.wait()
        if self.possible:
            self.job = self.thread.submit(job)
        else:
            job()

    def wait(self):
        """Wait for the job, if there is one; say so if that takes long."""
        job, self.job = self.job, None
        if job:
            if futures.wait([job], SOON).not_done:
                tell("Waiting   for an epoch to be scored and saved.")
            job.result()
