"""Errors a user can cause; the command line prints each as one sentence and exits with 2.

FaceShifterError
  ImageError        an image cannot be read
  NoFaceError       no face, or not the face that was asked for
  CheckpointError   weights are missing, damaged or of another model
  CredentialsError  results cannot be signed, or a signed manifest cannot be read
  DataError         training data is missing, damaged or of another form
  DependencyError   an optional package or file is not installed
  DeviceError       the device asked for is not there
  OutputError       a result cannot be written
  TrainingError     training cannot start, go on or be trusted
  VideoError        a video cannot be read
  CancelledError    somebody stopped the work
"""


class FaceShifterError(Exception):
    """Base of every error that is the input's fault, worded for the person who gave it."""


class ImageError(FaceShifterError):
    """An image file is missing, truncated or not an image."""


class NoFaceError(FaceShifterError):
    """No face was found, or the face asked for does not exist."""


class CheckpointError(FaceShifterError):
    """Weights are missing, damaged or belong to another model."""


class CredentialsError(FaceShifterError):
    """A key, certificate or manifest of content credentials cannot be used."""


class DataError(FaceShifterError):
    """Training data is missing, damaged or not of the expected form."""


class DependencyError(FaceShifterError):
    """A package or file that this feature needs is not installed."""


class DeviceError(FaceShifterError):
    """The device asked for is not available."""


class OutputError(FaceShifterError):
    """A result cannot be written where it was asked for."""


class TrainingError(FaceShifterError):
    """Training cannot start, go on or be trusted any longer."""


class VideoError(FaceShifterError):
    """A video is missing, damaged or not a video."""


class CancelledError(FaceShifterError):
    """Work was stopped by the one who had started it."""
