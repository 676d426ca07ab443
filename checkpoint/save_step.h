// The steps of a save by name, in order, so that tests and `trestle train --inject kill@...` can
// end a rank at each of them.
//
//   at_step(SaveStep::shard_synced, step);       // in the code of a save
//   on_save_step(+[](SaveStep at, std::int64_t step) { ... });
//
// LOCAL. THREADS: any; the hook runs on the thread that reached the step.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

namespace trestle::checkpoint {

enum class SaveStep : std::uint8_t {
  begun,             ///< main thread: the background thread knows of the save
  half_staged,       ///< half of this rank's bytes are copied
  staged,            ///< all of them are: the training waits for this save no more
  half_written,      ///< half of the shard's blocks are written
  shard_written,     ///< all of them
  shard_synced,      ///< and on disk
  part_written,      ///< this rank's manifest is, too
  reported,          ///< main thread: about to tell the other ranks
  agreed,            ///< main thread: all ranks have told that
  parts_read,        ///< rank 0, as all that follows: the manifests of all ranks are one
  manifest_written,  ///< manifest.json is on disk
  parts_removed,     ///< the ranks' manifests are gone
  folder_synced,     ///< the temporary folder is on disk
  renaming,          ///< nothing but the rename is left
  renamed,           ///< the checkpoint has its name
  rename_synced,     ///< and keeps it
  latest_written,    ///< `latest` names it
  pruned,            ///< what is to be kept no more is deleted
  sealed,            ///< main thread, every rank: all know that the save is done
  discarded,         ///< of a failed save: this rank's files are deleted
};

inline constexpr std::array<std::pair<SaveStep, std::string_view>, 20> kSaveSteps{{
    {SaveStep::begun, "begun"},
    {SaveStep::half_staged, "half-staged"},
    {SaveStep::staged, "staged"},
    {SaveStep::half_written, "half-written"},
    {SaveStep::shard_written, "shard-written"},
    {SaveStep::shard_synced, "shard-synced"},
    {SaveStep::part_written, "part-written"},
    {SaveStep::reported, "reported"},
    {SaveStep::agreed, "agreed"},
    {SaveStep::parts_read, "parts-read"},
    {SaveStep::manifest_written, "manifest-written"},
    {SaveStep::parts_removed, "parts-removed"},
    {SaveStep::folder_synced, "folder-synced"},
    {SaveStep::renaming, "renaming"},
    {SaveStep::renamed, "renamed"},
    {SaveStep::rename_synced, "rename-synced"},
    {SaveStep::latest_written, "latest-written"},
    {SaveStep::pruned, "pruned"},
    {SaveStep::sealed, "sealed"},
    {SaveStep::discarded, "discarded"},
}};

std::string_view save_step_name(SaveStep step);
std::optional<SaveStep> save_step_of(std::string_view name);

using SaveStepHook = void (*)(SaveStep at, std::int64_t step);
/// Is called at each step from now on; nullptr: nobody is. Returns the one before.
SaveStepHook on_save_step(SaveStepHook hook);

/// A save of the state after `step` steps is here.
void at_step(SaveStep at, std::int64_t step);

}  // namespace trestle::checkpoint
