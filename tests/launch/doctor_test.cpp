// What trestle doctor makes of invented machines, launchers and file systems, and that the real
// ones can be looked at.
#include "checkpoint/lease.h"
#include "dist/simulated.h"
#include "launch/doctor/facts.h"
#include "launch/doctor/finding.h"
#include "launch/doctor/folder.h"
#include "launch/doctor/judges.h"
#include "tests/support/scratch.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>
#include <numeric>
#include <set>

namespace trestle::launch::doctor {
namespace {

constexpr std::int64_t kGB = 1'000'000'000;
using Scratch = testing::ScratchFolder;

/// A rank on a machine with 8 CPUs with which all is well.
Facts sound(const std::string& host = "n1") {
  Facts facts;
  facts.binding = {.host = host, .cpus = {}, .threads = 0, .host_cpus = 8};
  facts.binding.cpus.resize(8);
  std::iota(facts.binding.cpus.begin(), facts.binding.cpus.end(), 0);
  facts.kernel = "6.1.0";
  facts.program = "0123456789abcdef0123456789abcdef";
  facts.interfaces = {
      {.name = "lo", .address = "127.0.0.1", .is_loopback = true},
      {.name = "eth0", .address = host == "n1" ? "10.0.0.1" : "10.0.0.2", .megabits = 25000}};
  facts.memory_bytes = 64 * kGB;
  facts.shm_bytes = facts.shm_free_bytes = 8 * kGB;
  facts.memlock_bytes = kUnlimited;
  facts.stack_bytes = 8 << 20;
  facts.open_files = 65536;
  facts.core_pattern = "core";
  return facts;
}

std::vector<Facts> ranks_on(const std::vector<std::string>& hosts) {
  std::vector<Facts> ranks;
  for (const auto& host : hosts) {
    ranks.push_back(sound(host));
    for (const auto& other : hosts)
      if (other != host) ranks.back().to[other] = "eth0";
  }
  return ranks;
}

void expect(const Finding& finding, Health health, const std::string& in_value,
            const std::string& in_advice = "") {
  EXPECT_EQ(finding.health, health) << finding.what << ": " << finding.value << finding.advice;
  EXPECT_NE(finding.value.find(in_value), std::string::npos) << finding.value;
  EXPECT_NE(finding.advice.find(in_advice), std::string::npos) << finding.advice;
  EXPECT_EQ(finding.health == Health::ok, finding.advice.empty()) << finding.advice;
}

TEST(Doctor, FactsAreTheSameOnTheirWay) {
  Facts facts = sound();
  facts.environment = {{"OMP_NUM_THREADS", "4"}};
  facts.gpus = {"GPU-1"};
  facts.to = {{"n2", "eth0"}};
  facts.clock_s = 1.5;
  EXPECT_EQ(decode_facts(encode(facts)), facts);
  EXPECT_EQ(facts.variable("OMP_NUM_THREADS"), "4");
  EXPECT_EQ(facts.variable("SLURM_JOB_ID"), "");
}

TEST(Doctor, ThisMachineCanBeLookedAt) {
  const Facts facts = facts_of_this_rank();
  EXPECT_FALSE(facts.host().empty());
  EXPECT_FALSE(facts.binding.cpus.empty());
  EXPECT_EQ(facts.program.size(), 32u);
  EXPECT_FALSE(facts.kernel.empty());
  EXPECT_GT(facts.memory_bytes, 0);
  EXPECT_NE(facts.open_files, 0);
  EXPECT_TRUE(std::ranges::any_of(facts.interfaces, &Interface::is_loopback));
}

TEST(Doctor, HostsThatDifferAreNamed) {
  auto ranks = ranks_on({"n1", "n1", "n2", "n3"});
  const auto memory = [](const Facts& facts) { return std::to_string(facts.memory_bytes / kGB); };
  EXPECT_EQ(by_host(ranks, memory), "64");
  ranks[2].memory_bytes = 8 * kGB;
  EXPECT_EQ(by_host(ranks, memory), "n1, n3: 64; n2: 8");
}

TEST(Doctor, TheTableAndTheJsonSayTheSame) {
  std::vector<Finding> findings = {{.what = "shm", .value = "64 GB"}, {.what = "open_files"}};
  EXPECT_EQ(worst(findings), Health::ok);
  findings[1].complain(Health::fail, "Too few.");
  findings[1].complain(Health::warn, "Raise it.");
  EXPECT_EQ(worst(findings), Health::fail);
  EXPECT_EQ(table(findings),
            "ok    shm         64 GB\n"
            "fail  open_files  \n"
            "                  -> Too few. Raise it.\n");
  const auto report = nlohmann::json::parse(to_json(findings, 4, {"n1", "n2"}));
  EXPECT_EQ(report["format"], "trestle doctor");
  EXPECT_EQ(report["version"], 1);
  EXPECT_EQ(report["health"], "fail");
  EXPECT_EQ(report["ranks"], 4);
  EXPECT_EQ(report["hosts"], (std::vector<std::string>{"n1", "n2"}));
  EXPECT_EQ(report["checks"][1]["check"], "open_files");
  EXPECT_EQ(report["checks"][1]["advice"], "Too few. Raise it.");
}

TEST(Doctor, Program) {
  auto ranks = ranks_on({"n1", "n2"});
  expect(judge_program(ranks), Health::ok, "digest 0123456789ab");
  ranks[1].program = "ffff";
  expect(judge_program(ranks), Health::fail, "n2: digest ffff", "same build on all hosts");
}

TEST(Doctor, Mpi) {
  const std::string library = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, May 2022";
  Facts root = sound();
  expect(judge_mpi({.library = library, .mpirun = "mpirun (Open MPI) 4.1.4\n"}, root), Health::ok,
         "library Open MPI 4.1.4; mpirun (Open MPI) 4.1.4");
  expect(judge_mpi({.library = library, .mpirun = "mpirun (Open MPI) 5.0.1"}, root), Health::fail,
         "5.0.1", "another MPI");
  expect(judge_mpi({.library = library, .mpirun = "HYDRA build details: Version: 4.1.4"}, root),
         Health::fail, "HYDRA", "another MPI");
  expect(judge_mpi({.library = library, .mpirun = ""}, root), Health::warn, "no mpirun in PATH",
         "srun");
  expect(judge_mpi({.library = "MPICH Version: 4.0.2", .mpirun = "mpirun"}, root), Health::warn,
         "MPICH Version: 4.0.2", "not Open MPI");
  root.environment = {{"SLURM_PROCID", "0"},
                      {"SLURM_STEP_NUM_TASKS", "2"},
                      {"PMIX_RANK", "0"},
                      {"PMIX_VERSION", "4.2.2"}};
  expect(judge_mpi({.library = library, .mpirun = "mpirun (Open MPI) 5.0.1"}, root), Health::warn,
         "PMIx 4.2.2", "another MPI");
  expect(judge_mpi({.library = library, .mpirun = ""}, root), Health::ok, "no mpirun in PATH");
}

TEST(Doctor, Slurm) {
  Facts root = sound();
  expect(judge_slurm({.version = "", .mpi_list = ""}, root), Health::ok, "no srun");
  const SlurmFacts good{.version = "slurm-wlm 22.05.8\n",
                        .mpi_list =
                            "MPI plugin types are...\n\tnone\n\tpmi2\n\tpmix\n"
                            "specific pmix plugin versions available: pmix_v4\n"};
  expect(judge_slurm(good, root), Health::ok, "slurm-wlm 22.05.8; srun --mpi=pmix");
  const SlurmFacts old{.version = "slurm 20.11", .mpi_list = "srun: MPI types are...\nnone\npmi2"};
  expect(judge_slurm(old, root), Health::warn, "no pmix", "PMIx");
  root.environment = {{"SLURM_JOB_ID", "17"}};
  expect(judge_slurm(good, root), Health::ok, "job 17");
  expect(judge_slurm(old, root), Health::fail, "no pmix", "PMIx");
  expect(judge_slurm({.version = "", .mpi_list = ""}, root), Health::warn, "in a job", "PATH");
  root.environment["OMPI_COMM_WORLD_SIZE"] = "2";
  expect(judge_slurm(old, root), Health::warn, "no pmix", "PMIx");
}

TEST(Doctor, Ranks) {
  auto ranks = ranks_on({"n1"});
  expect(judge_ranks(ranks, ""), Health::ok, "1 rank, started alone");
  expect(judge_ranks(ranks, "srun started 4 tasks, but ..."), Health::fail, "1 rank",
         "srun started 4 tasks");
  ranks[0].environment = {{"SLURM_NTASKS", "8"}};
  expect(judge_ranks(ranks, ""), Health::warn, "started alone", "for 8 tasks");
  ranks = ranks_on({"n1", "n1"});
  ranks[0].environment = {{"OMPI_COMM_WORLD_SIZE", "2"}, {"SLURM_NTASKS", "8"}};
  expect(judge_ranks(ranks, ""), Health::ok, "2 ranks, started by mpirun");
  ranks[0].environment = {{"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"PMIX_RANK", "0"}};
  expect(judge_ranks(ranks, ""), Health::ok, "2 ranks, started by srun");
}

TEST(Doctor, HostsAndClocks) {
  auto ranks = ranks_on({"n1", "n1", "n2", "n2"});
  expect(judge_hosts(ranks), Health::ok, "2 hosts x 2 ranks: n1, n2; Linux 6.1.0");
  expect(judge_clocks(ranks_on({"n1", "n1"})), Health::ok, "one host");
  for (std::size_t rank = 0; rank < 4; ++rank) ranks[rank].clock_s = 1000 + 0.01 * double(rank);
  expect(judge_clocks(ranks), Health::ok, "within 30 ms");
  ranks[2].clock_s = 1090;
  expect(judge_clocks(ranks), Health::warn, "n2 is ahead of n1", "time server");
  expect(judge_hosts(ranks_on({"n1", "n1", "n2"})), Health::warn, "n1, n2", "as many on each");
}

TEST(Doctor, CoresAndThreads) {
  auto ranks = ranks_on({"n1", "n1"});
  expect(judge_cores(ranks, {}), Health::ok, "ranks 0-1 on CPUs 0-7 with 4 threads each");
  expect(judge_threads(ranks, {}), Health::ok, "4 a rank (OMP_NUM_THREADS is not set");
  // The trap: mpirun -n 2 binds a rank, with all its threads, to one core.
  for (int rank = 0; rank < 2; ++rank) {
    ranks[static_cast<std::size_t>(rank)].binding.cpus = {rank};
    ranks[static_cast<std::size_t>(rank)].binding.pinned_by_mpirun = true;
  }
  expect(judge_cores(ranks, {}), Health::warn, "rank 0 on CPU 0", "--bind-to none");
  expect(judge_cores(ranks, Needs{.threads = 4}), Health::warn, "4 threads",
         "rank 0 on n1 has 4 threads for CPU 0");

  ranks = ranks_on({"n1", "n1"});
  for (Facts& facts : ranks) {
    facts.environment["OMP_NUM_THREADS"] = "1";
    facts.binding.threads = 1;
  }
  expect(judge_threads(ranks, {}), Health::warn, "1 a rank (OMP_NUM_THREADS=1)",
         "2 threads on 8 CPUs");
  expect(judge_threads(ranks, Needs{.threads = 4}), Health::ok, "4 a rank (dist.threads = 4)");
  for (Facts& facts : ranks) facts.binding.threads = 4;
  ranks[0].environment["OMP_NUM_THREADS"] = "4";
  ranks[1].environment.clear();
  expect(judge_threads(ranks, {}), Health::warn, "4 a rank", "differs between ranks");
}

TEST(Doctor, Memory) {
  const auto ranks = ranks_on({"n1", "n1", "n2"});
  expect(judge_memory(ranks, {}), Health::ok, "64 GB can be had");
  expect(judge_memory(ranks, Needs{.rank_memory_bytes = 20 * kGB}), Health::ok, "take 20 GB");
  expect(judge_memory(ranks, Needs{.rank_memory_bytes = 30 * kGB}), Health::warn, "",
         "The 2 ranks on n1 will take 60 GB of 64 GB");
  expect(judge_memory(ranks, Needs{.rank_memory_bytes = 40 * kGB}), Health::fail, "", "80 GB");
}

TEST(Doctor, Gpus) {
  auto ranks = ranks_on({"n1", "n1"});
  expect(judge_gpus(ranks), Health::ok, "none");
  ranks[0].gpu_driver = ranks[1].gpu_driver = "550.54";
  expect(judge_gpus(ranks), Health::warn, "none, driver 550.54", "CUDA shows no GPU");
  for (Facts& facts : ranks) facts.gpus = {"GPU-1", "GPU-2"};
  expect(judge_gpus(ranks), Health::ok, "2 seen by a rank, driver 550.54");
  for (Facts& facts : ranks) facts.gpus = {"GPU-1"};
  expect(judge_gpus(ranks), Health::fail, "1 seen by a rank", "GPU");
}

TEST(Doctor, Nccl) {
  expect(judge_nccl({.compiled = 0, .loaded = 0}), Health::ok, "without CUDA");
  expect(judge_nccl({.compiled = 22809, .loaded = 22809}), Health::ok,
         "compiled with 2.28.9, loaded 2.28.9");
  expect(judge_nccl({.compiled = 22809, .loaded = 22803}), Health::warn, "2.28.3", "Another NCCL");
  expect(judge_nccl({.compiled = 22809, .loaded = 21805}), Health::fail, "2.18.5", "Another NCCL");
  expect(judge_nccl({.compiled = 22809, .loaded = 2708}), Health::fail, "2.7.8", "Another NCCL");
  expect(judge_nccl({.compiled = 22809, .loaded = 0}), Health::fail, "loaded none", "Another");
}

TEST(Doctor, Network) {
  expect(judge_network(ranks_on({"n1"})), Health::ok, "eth0 10.0.0.1 (25 Gbit/s)");
  auto ranks = ranks_on({"n1", "n2"});
  expect(judge_network(ranks), Health::ok, "between hosts: eth0");
  for (Facts& facts : ranks)
    facts.interfaces.push_back({.name = "docker0", .address = "172.17.0.1"});
  expect(judge_network(ranks), Health::warn, "docker0 172.17.0.1",
         "docker0 172.17.0.1 is the address of n1 and n2 at once");
  ranks[0].environment["OMPI_MCA_btl_tcp_if_include"] = "eth0";
  expect(judge_network(ranks), Health::ok, "docker0");
  ranks[0].to["n2"] = "docker0";
  expect(judge_network(ranks), Health::warn, "between hosts: docker0, eth0", "n1: docker0");
  ranks[1].to["n1"] = "";
  expect(judge_network(ranks), Health::fail, "", "no way to n1 from n2");
}

TEST(Doctor, SharedMemory) {
  auto ranks = ranks_on({"n1", "n1"});
  expect(judge_shm(ranks), Health::ok, "8 GB in /dev/shm");
  for (Facts& facts : ranks) facts.shm_bytes = facts.shm_free_bytes = 64 << 20;  // Docker's default
  expect(judge_shm(ranks), Health::warn, "67.1 MB", "--shm-size");
  expect(judge_shm({ranks[0]}), Health::ok, "67.1 MB");
  for (Facts& facts : ranks) facts.shm_bytes = facts.shm_free_bytes = 0;
  expect(judge_shm(ranks), Health::fail, "no /dev/shm", "2 ranks");
}

TEST(Doctor, Limits) {
  auto ranks = ranks_on({"n1", "n2"});
  ranks[1].memlock_bytes = 8 << 20;
  expect(judge_memlock(ranks), Health::ok, "n1: unlimited; n2: 8.39 MB");
  ranks[1].has_infiniband = true;
  expect(judge_memlock(ranks), Health::warn, "with InfiniBand", "On n2");

  expect(judge_stack(ranks), Health::ok, "8.39 MB");
  ranks[1].stack_bytes = kUnlimited;
  expect(judge_stack(ranks), Health::warn, "n2: unlimited", "ulimit -s 8192");
  ranks[1].stack_bytes = 1 << 20;
  expect(judge_stack(ranks), Health::warn, "n2: 1.05 MB", "ulimit -s 8192");

  expect(judge_open_files(ranks), Health::ok, "65536");
  ranks[1].open_files = 256;
  expect(judge_open_files(ranks), Health::warn, "n2: 256", "ulimit -n 4096");
  ranks[1].open_files = 64;
  expect(judge_open_files(ranks), Health::fail, "n2: 64", "ulimit -n 4096");
  ranks[1].open_files = kUnlimited;
  expect(judge_open_files(ranks), Health::ok, "n2: unlimited");

  expect(judge_core_files(ranks), Health::ok, "none");
  ranks[0].core_bytes = ranks[1].core_bytes = kUnlimited;
  expect(judge_core_files(ranks), Health::warn, "unlimited, as \"core\"", "ulimit -c 0");
  ranks[0].core_pattern = ranks[1].core_pattern = "|/usr/lib/systemd/systemd-coredump %P";
  expect(judge_core_files(ranks), Health::ok, "systemd-coredump");
}

/// Ranks that share a sound file system; the first of each host tests it.
std::vector<FolderFacts> folder_on(const std::vector<std::string>& hosts) {
  std::vector<FolderFacts> ranks;
  std::set<std::string> seen;
  for (const auto& host : hosts) {
    FolderFacts facts;
    facts.host = host;
    facts.tried = "/data";
    facts.type = "ext4";
    facts.options = "rw,relatime";
    facts.free_bytes = 500 * kGB;
    facts.total_bytes = 1000 * kGB;
    facts.free_inodes = 1'000'000;
    facts.tests_host = seen.insert(host).second;
    facts.replaces_files = facts.moves_folders = facts.swaps_folders = facts.tests_host;
    facts.syncs_folders = facts.links = facts.tests_host;
    if (facts.tests_host) {
      facts.written_bytes = 256e6;
      facts.written_s = 0.5;
    }
    facts.sees_others = facts.sees_replaced = true;
    ranks.push_back(facts);
  }
  ranks.back().won_link = ranks.front().won_creation = true;
  return ranks;
}

TEST(Doctor, RunDirectory) {
  auto ranks = folder_on({"n1"});
  expect(judge_run_directory("runs/cats", ranks), Health::ok, "runs/cats");
  ranks[0].holder = "host n2, pid 7";
  expect(judge_run_directory("runs/cats", ranks), Health::ok, "free, last held by host n2");
  ranks[0].is_held = true;
  expect(judge_run_directory("runs/cats", ranks), Health::warn, "held by host n2", "--run-dir");
  ranks = folder_on({"n1"});
  ranks[0].is_in_the_way = true;
  expect(judge_run_directory("runs/cats", ranks), Health::fail, "runs/cats", "no folder");
}

TEST(Doctor, FileSystem) {
  auto ranks = folder_on({"n1", "n2"});
  const auto with = [&](const std::string& type, const std::string& options) {
    ranks[0].type = type;
    ranks[0].options = options;
    return judge_file_system(ranks);
  };
  expect(with("ext4", "rw"), Health::ok, "ext4 at /data");
  expect(with("nfs4", "rw,hard"), Health::ok, "nfs4");
  expect(with("nfs4", "rw,soft,proto=tcp"), Health::warn, "nfs4", "hard");
  expect(with("tmpfs", "rw"), Health::warn, "tmpfs", "memory");
  expect(with("overlay", "rw"), Health::warn, "overlay", "container");
  expect(with("ext4", "relatime,ro"), Health::fail, "ext4", "read-only");
}

TEST(Doctor, NamesOnTheFileSystem) {
  auto ranks = folder_on({"n1", "n1", "n2"});
  expect(judge_renames(ranks), Health::ok, "swapped at once");
  expect(judge_claims(ranks), Health::ok, "1 linked it and 1 made it");
  ranks[2].swaps_folders = false;
  expect(judge_renames(ranks), Health::ok, "not swapped");
  ranks[2].syncs_folders = false;
  expect(judge_renames(ranks), Health::warn, "not synced", "On n2");
  ranks[2].moves_folders = false;
  expect(judge_renames(ranks), Health::fail, "no atomic rename", "On n2");

  ranks = folder_on({"n1", "n1", "n2"});
  ranks[0].won_link = true;
  expect(judge_claims(ranks), Health::fail, "2 linked it", "Not exactly one");
  ranks = folder_on({"n1", "n1", "n2"});
  for (auto& facts : ranks) facts.won_link = facts.links = false;
  expect(judge_claims(ranks), Health::warn, "0 linked it and 1 made it", "no hard links");
  ranks[1].won_creation = true;
  expect(judge_claims(ranks), Health::fail, "2 made it", "Not exactly one");
}

TEST(Doctor, SharedByAllHosts) {
  auto ranks = folder_on({"n1", "n2"});
  expect(judge_sharing(ranks), Health::ok, "2 hosts see the same files");
  expect(judge_sharing(folder_on({"n1", "n1"})), Health::ok, "one host");
  ranks[1].sees_replaced = false;
  expect(judge_sharing(ranks), Health::fail, "late", "n2 does not see that a file was replaced");
  ranks[1].sees_others = false;
  expect(judge_sharing(ranks), Health::fail, "late", "n2 does not see what other ranks");
  ranks[1].problem = "/data of rank 0 is not there on n2";
  expect(judge_sharing(ranks), Health::fail, "does not work", "n2: /data of rank 0 is not there");
  expect(judge_renames(ranks), Health::ok, "not tried");
  expect(judge_claims(ranks), Health::ok, "not tried");
  expect(judge_write_rate(ranks, {}), Health::ok, "not tried");
}

TEST(Doctor, WriteRate) {
  auto ranks = folder_on({"n1", "n1", "n2"});
  expect(judge_write_rate(ranks, {}), Health::ok, "1.02 GB/s with fsync (512 MB by one rank");
  expect(judge_write_rate(ranks, Needs{.checkpoint_bytes = 2 * kGB}), Health::ok,
         "a checkpoint of 2 GB takes about 1.953 s");
  expect(judge_write_rate(ranks, Needs{.checkpoint_bytes = 200 * kGB}), Health::warn, "200 GB",
         "a stop or a preemption waits");
  ranks[2].written_s = 25.6;
  expect(judge_write_rate(ranks, {}), Health::warn, "522 MB/s", "slow for checkpoints");
  for (auto& facts : ranks) facts.written_bytes = facts.written_s = 0;
  expect(judge_write_rate(ranks, {}), Health::warn, "not measured", "too little room");
}

TEST(Doctor, SpaceAndInodes) {
  auto ranks = folder_on({"n1", "n2"});
  expect(judge_space(ranks, {}), Health::ok, "500 GB free of 1 TB");
  const Needs needs{.checkpoint_bytes = 100 * kGB, .checkpoints = 3, .pictures = 10};
  expect(judge_space(ranks, needs), Health::ok, "3 checkpoints and one being written take 400 GB");
  ranks[0].free_bytes = 300 * kGB;
  expect(judge_space(ranks, needs), Health::warn, "", "1.3 times");
  ranks[0].free_bytes = 199 * kGB;
  expect(judge_space(ranks, needs), Health::fail, "", "Not even two");
  ranks[0].free_bytes = kGB / 2;
  expect(judge_space(ranks, {}), Health::warn, "500 MB free", "little");

  // Four checkpoints of 2 shards and 3 more; logs of 2 ranks, pictures and the rest.
  expect(judge_inodes(ranks, needs), Health::ok, "1000000 free; a run on 2 ranks takes 66");
  ranks[0].free_inodes = 65;
  expect(judge_inodes(ranks, needs), Health::fail, "65 free", "too few inodes");
  ranks[0].free_inodes = -1;
  expect(judge_inodes(ranks, {}), Health::ok, "not counted");
}

TEST(Doctor, TriesAFolderThatIsNotThereYetAndLeavesNothing) {
  const Scratch scratch;
  dist::simulate(3, [&](const dist::Communicator& world) {
    const auto ranks = probe_folder(world, scratch.path() / "runs" / "cats");
    EXPECT_EQ(ranks.size(), 3u);
    for (const FolderFacts& facts : ranks) EXPECT_EQ(facts.problem, "");
    EXPECT_EQ(ranks[0].tried, std::filesystem::canonical(scratch.path()).string());
    for (const auto& judge : {judge_renames, judge_claims, judge_sharing})
      EXPECT_EQ(judge(ranks).health, Health::ok) << judge(ranks).advice;
    EXPECT_GT(ranks[0].written_bytes, 0);
    EXPECT_EQ(ranks[1].written_bytes, 0) << "one rank of each host writes";
    EXPECT_FALSE(ranks[0].type.empty());
    EXPECT_TRUE(ranks[0].holder.empty());
  });
  EXPECT_TRUE(std::filesystem::is_empty(scratch.path()));
}

TEST(Doctor, SaysWhoHoldsARunDirectory) {
  const Scratch scratch;
  const auto finding_now = [&] {
    Finding finding;
    dist::simulate(1, [&](const dist::Communicator& world) {
      finding = judge_run_directory("here", probe_folder(world, scratch.path()));
    });
    return finding;
  };
  {
    const checkpoint::Lease lease(scratch.path(), checkpoint::this_process(2), {.timeout_s = 60});
    expect(finding_now(), Health::warn, "held by host", "--run-dir");
  }
  expect(finding_now(), Health::ok, "free, last held by host");
}

TEST(Doctor, ADiskWithoutRoomIsSaid) {
  testing::SmallDisk disk(64 << 10);
  if (!disk.available()) GTEST_SKIP() << disk.why_not();
  std::ofstream(disk.path() / "ballast") << std::string(disk.free_bytes(), 'x');
  dist::simulate(2, [&](const dist::Communicator& world) {
    const auto ranks = probe_folder(world, disk.path());
    expect(judge_sharing(ranks), Health::fail, "does not work", "No space left on device");
    EXPECT_EQ(ranks[0].type, "tmpfs");
  });
}

}  // namespace
}  // namespace trestle::launch::doctor
