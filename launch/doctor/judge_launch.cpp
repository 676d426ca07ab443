#include "dist/topology.h"
#include "launch/commands/units.h"
#include "launch/doctor/judges.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <sstream>

namespace trestle::launch::doctor {
namespace {

constexpr double kClocksDifferSeconds = 1;

/// The first "1.2.3" in a text.
std::string version_in(const std::string& text) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  for (std::size_t begin = 0; begin < text.size(); ++begin) {
    if (!is_digit(text[begin])) continue;
    std::size_t end = begin;
    while (end < text.size() && (is_digit(text[end]) || text[end] == '.')) ++end;
    std::string version = text.substr(begin, end - begin);
    while (version.ends_with('.')) version.pop_back();
    if (version.find('.') != version.npos) return version;
    begin = end;
  }
  return "";
}

bool started_by_srun(const Facts& facts) {
  return facts.variable("OMPI_COMM_WORLD_SIZE").empty() &&
         !facts.variable("SLURM_PROCID").empty() &&
         !facts.variable("SLURM_STEP_NUM_TASKS").empty() && !facts.variable("PMIX_RANK").empty();
}

std::string launcher_of(const Facts& facts) {
  if (!facts.variable("OMPI_COMM_WORLD_SIZE").empty()) return "mpirun";
  return started_by_srun(facts) ? "srun" : "";
}

std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += (line.empty() ? "" : " ") + word;
  return line;
}

}  // namespace

Finding judge_program(const std::vector<Facts>& ranks) {
  Finding finding{.what = "program"};
  std::set<std::string> digests;
  for (const Facts& facts : ranks) digests.insert(facts.program);
  const auto short_digest = [](const Facts& facts) {
    return facts.program.empty() ? "unreadable" : "digest " + facts.program.substr(0, 12);
  };
  finding.value = by_host(ranks, short_digest);
  if (digests.size() > 1) {
    finding.complain(Health::fail,
                     "The ranks run different executables (they would exchange what they "
                     "understand differently). Install the same build on all hosts, or put it on "
                     "a shared file system.");
  }
  return finding;
}

Finding judge_mpi(const MpiFacts& mpi, const Facts& root) {
  Finding finding{.what = "mpi"};
  const std::string library = version_in(mpi.library), launcher = launcher_of(root);
  const std::string mpirun = version_in(mpi.mpirun);
  const bool is_open_mpi = mpi.library.find("Open MPI") != std::string::npos;
  finding.value =
      fmt::format("library {}; {}", is_open_mpi ? "Open MPI " + library : one_line(mpi.library),
                  mpi.mpirun.empty() ? "no mpirun in PATH" : one_line(mpi.mpirun));
  if (const auto pmix = root.variable("PMIX_VERSION"); !pmix.empty())
    finding.value += fmt::format("; PMIx {} of the launcher", pmix);
  if (!is_open_mpi) {
    finding.complain(Health::warn,
                     "The library is not Open MPI, which Trestle is tested with. Try "
                     "trestle bench comm before anything long.");
  }
  if (mpi.mpirun.empty()) {
    if (launcher.empty()) {
      finding.complain(Health::warn,
                       "Without an mpirun in PATH only srun can start several ranks. Put the "
                       "mpirun of this MPI in PATH.");
    }
  } else if (is_open_mpi &&
             (mpirun != library || mpi.mpirun.find("Open MPI") == std::string::npos)) {
    finding.complain(launcher == "srun" ? Health::warn : Health::fail,
                     "The mpirun in PATH belongs to another MPI than the library that this program "
                     "loads (ranks would not find each other, or start and hang). Put that "
                     "library's mpirun first in PATH.");
  }
  return finding;
}

Finding judge_slurm(const SlurmFacts& slurm, const Facts& root) {
  Finding finding{.what = "slurm"};
  const bool in_job = !root.variable("SLURM_JOB_ID").empty();
  if (slurm.version.empty()) {
    finding.value = in_job ? "in a job, no srun in PATH" : "no srun in PATH";
    if (in_job) {
      finding.complain(Health::warn,
                       "This is a Slurm job, and srun and squeue are not in PATH (they start ranks "
                       "and tell the time that is left). Add Slurm's bin folder to PATH.");
    }
    return finding;
  }
  finding.value = one_line(slurm.version);
  if (in_job) finding.value += ", job " + root.variable("SLURM_JOB_ID");
  std::string plugins;
  std::istringstream words(slurm.mpi_list);
  for (std::string word; words >> word;) {
    std::erase(word, ',');
    if (word.starts_with("pmix")) plugins += " " + word;
  }
  if (plugins.empty()) {
    finding.value += "; srun --mpi=list has no pmix";
    finding.complain(
        in_job && launcher_of(root) != "mpirun" ? Health::fail : Health::warn,
        "srun cannot start ranks that find each other: Open MPI needs PMIx. Start them "
        "with mpirun inside the job, or have Slurm's pmix plugin installed.");
  } else {
    finding.value += "; srun --mpi=" + plugins.substr(1);
  }
  return finding;
}

Finding judge_ranks(const std::vector<Facts>& ranks, const std::string& refusal) {
  Finding finding{.what = "ranks"};
  const Facts& root = ranks.front();
  const std::string launcher = launcher_of(root);
  finding.value = fmt::format("{} rank{}, {}", ranks.size(), ranks.size() == 1 ? "" : "s",
                              launcher.empty() ? "started alone" : "started by " + launcher);
  if (!refusal.empty()) {
    finding.complain(Health::fail, refusal);
    return finding;
  }
  const std::string tasks = root.variable("SLURM_NTASKS");
  if (launcher.empty() && ranks.size() == 1 && !tasks.empty() && tasks != "1") {
    finding.complain(Health::warn,
                     fmt::format("This allocation is for {} tasks, and this is a program of one. "
                                 "Start it with srun --mpi=pmix trestle doctor, or with mpirun.",
                                 tasks));
  }
  return finding;
}

Finding judge_hosts(const std::vector<Facts>& ranks) {
  Finding finding{.what = "hosts"};
  std::vector<std::string> names;
  for (const Facts& facts : ranks) names.push_back(facts.host());
  const dist::Topology topology(names);
  finding.value =
      fmt::format("{}: {}; Linux {}", topology.to_text(), fmt::join(hosts_of(ranks), ", "),
                  by_host(ranks, [](const Facts& facts) { return facts.kernel; }));
  if (topology.hosts() > 1 && topology.ranks_per_host() == 0) {
    finding.complain(Health::warn,
                     "Hosts have different numbers of ranks (gradients are then summed in one "
                     "level, with more bytes between hosts). Start as many on each.");
  }
  return finding;
}

Finding judge_clocks(const std::vector<Facts>& ranks) {
  Finding finding{.what = "clocks"};
  if (hosts_of(ranks).size() == 1) {
    finding.value = "one host";
    return finding;
  }
  const auto [first, last] = std::ranges::minmax_element(ranks, {}, &Facts::clock_s);
  const double apart_s = last->clock_s - first->clock_s;
  finding.value = fmt::format("within {}", time_text(apart_s));
  if (apart_s >= kClocksDifferSeconds) {
    finding.value += fmt::format(" ({} is ahead of {})", last->host(), first->host());
    finding.complain(Health::warn,
                     "Times in the logs of different hosts cannot be compared (Trestle itself "
                     "compares no clocks). Have the hosts follow one time server.");
  }
  return finding;
}

}  // namespace trestle::launch::doctor
