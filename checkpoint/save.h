// Saving: the whole training state in one folder that is complete or not there.
//
//   checkpoints/step-00000100/manifest.json  shard-00000-of-00002.h5  shard-00001-of-00002.h5
//   checkpoints/latest                        the newest folder's name, for people
//
//   checkpoint::save(world, checkpoint::collect(visit), {.folder = run / "checkpoints", ...});
//
// Each rank writes one HDF5 file; h5py reads them. A checkpoint is written under a temporary name
// and renamed when every file is on disk on all ranks, so a crash leaves the old ones and at most
// a ".tmp-..." folder. Any number of ranks can load what any other number saved (load.h).
// checkpoint/async_saver.h is how it is done; this is the same, waited for.
// COLLECTIVE or LOCAL is said at each function. THREADS: any; one save at a time in a folder.
// ERRORS: ExitCode::checkpoint, naming the file and the tensor.
#pragma once
#include "checkpoint/async_saver.h"
#include "checkpoint/save_request.h"
#include "checkpoint/state_tree.h"
#include "dist/collectives.h"
#include "dist/communicator.h"

#include <cstdint>
#include <filesystem>

namespace trestle::checkpoint {

/// COLLECTIVE. Writes folder/step-NNNNNNNN and returns it. A checkpoint of the same step is
/// replaced. If any rank fails, every rank throws, the temporary folder is removed, and what was
/// there before stays as it was.
std::filesystem::path save(const dist::Communicator& comm, const StateTree& tree,
                           const SaveRequest& request);

/// COLLECTIVE. AsyncSaverOptions::tag.
std::uint32_t agreed_tag(const dist::Communicator& comm);

/// COLLECTIVE. Waits until the save under way has ended, if there is one. `collectives` are of all
/// ranks. Throws Error(peer) on this rank alone where the others do not say within the save's time
/// what they have to say.
void settle(AsyncSaver& saver, dist::Collectives& collectives);

/// LOCAL. Deletes the temporary folders of saves that were killed. For the only writer of the
/// folder, before its first save.
void remove_leftovers(const std::filesystem::path& folder);

}  // namespace trestle::checkpoint
