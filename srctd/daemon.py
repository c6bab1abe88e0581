"""The daemon: the only place that builds the adapters and wires them."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog

from srctd import view
from srctd.adapters import sync
from srctd.adapters.catalog import Catalog, CatalogSettings
from srctd.adapters.children import Children, ChildSpec
from srctd.adapters.control import Control
from srctd.adapters.journal import Journal
from srctd.adapters.pool import Pool
from srctd.adapters.service import Service
from srctd.config import STEP_TIMEOUTS, Config, load_recipes, read_secret
from srctd.core.errors import HoldError, SrctdError
from srctd.core.lifecycle import Released, Scan, Step
from srctd.core.recipe import parse_setting
from srctd.engine import Engine, JournalThread
from srctd.intake import Intake
from srctd.steps import Services

log = structlog.get_logger()
