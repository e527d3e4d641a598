//! One value of a file: its type, its bounds, and how it is told if it does not fit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use osps_heart::pulse::LIMIT_MAX;
use osps_heart::words::HeartSource;
use serde_spanned::Spanned;
use toml::de::{DeArray, DeInteger, DeTable, DeValue};

use super::keys::{Key, Kind};
use super::look::Who;
use super::problem::{Notes, hint, nearest, quoted};
use super::{is_name, name_rule, texts, time};
use crate::policy::restart::{INTENSITY_MAX, Intensity};
use crate::prober::target::Target;
use crate::service::launch::{Limit, Resource, UNLIMITED};
use crate::service::{Address, HeartChoice, Reload};
