"""The settings of every method: one frozen dataclass each, one sentence with its unit under each field.

The same dataclass draws the terminal's flags, the Studio's controls and the README's table. Contradictions are
refused where the value is made, with the reason. A setting marked `live` may be edited while a run is paused or plays.
"""

from lab.config.classic import Adapter, PPOConfig, RewardConfig, SFTConfig
from lab.config.group import GroupConfig
from lab.config.online import OnlineConfig
from lab.config.preference import KTOConfig, PreferenceConfig
from lab.config.process import ProcessConfig
from lab.config.selection import SelectionConfig
from lab.config.setting import SCHEDULES, ConfigError, Setting, check, live_settings, setting, settings

CONFIGS: dict[str, type] = {
    "sft": SFTConfig,
    "reward": RewardConfig,
    "process": ProcessConfig,
    "ppo": PPOConfig,
    "dpo": PreferenceConfig,
    "kto": KTOConfig,
    "grpo": GroupConfig,
    "online": OnlineConfig,
    "raft": SelectionConfig,
}
"""Method -> its settings."""

__all__ = [
    "CONFIGS",
    "SCHEDULES",
    "Adapter",
    "ConfigError",
    "GroupConfig",
    "KTOConfig",
    "OnlineConfig",
    "PPOConfig",
    "PreferenceConfig",
    "ProcessConfig",
    "RewardConfig",
    "SFTConfig",
    "SelectionConfig",
    "Setting",
    "check",
    "live_settings",
    "setting",
    "settings",
]
