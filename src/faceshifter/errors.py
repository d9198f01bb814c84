"""Errors a user can cause; the command line prints each as one sentence and exits with 2."""


class FaceShifterError(Exception):
    """Base of all errors that the input causes, worded for the person who gave it."""


class ImageError(FaceShifterError):
    """An image file is missing, damaged or not an image."""


class NoFaceError(FaceShifterError):
    """No face was found, or not the one that was asked for."""


class SeveralFacesError(NoFaceError):
    """A photo shows several people where one is meant."""


class CheckpointError(FaceShifterError):
    """Weights are missing, damaged or of another model."""


class CredentialsError(FaceShifterError):
    """A result cannot be signed, or a signed manifest cannot be read."""


class DataError(FaceShifterError):
    """Training data or a table is missing, damaged or of another form."""


class DependencyError(FaceShifterError):
    """A package or file that this feature needs is not installed."""


class DeviceError(FaceShifterError):
    """The requested device is not available."""


class OutputError(FaceShifterError):
    """A result cannot be written."""


class TrainingError(FaceShifterError):
    """Training cannot start, resume or be trusted."""


class VideoError(FaceShifterError):
    """A video is missing, damaged or not a video."""


class CancelledError(FaceShifterError):
    """Work was stopped by the person who started it."""
