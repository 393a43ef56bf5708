"""Loggers for metrics beside metrics.jsonl: one file each, registered by name in `LOGGERS`."""

from fastsvs.telemetry.loggers import mlflow, tensorboard, wandb
from fastsvs.telemetry.loggers.registry import LOGGERS, Logger, LoggerFactory, Loggers, check_loggers

__all__ = ["LOGGERS", "Logger", "LoggerFactory", "Loggers", "check_loggers", "mlflow", "tensorboard", "wandb"]
