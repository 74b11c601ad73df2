// whole-clang.cpp: a clang that holds all of LLVM, from Debian's static libraries, as those are that LLVM's own
// project and kernel.org hand out: the driver, and the compiler that the driver runs.  Not here: -cc1as, and
// what the driver does after a crash.
#include "clang/Basic/DiagnosticOptions.h"
#include "clang/CodeGen/CodeGenAction.h"
#include "clang/Driver/Compilation.h"
#include "clang/Driver/Driver.h"
#include "clang/Frontend/CompilerInstance.h"
#include "clang/Frontend/CompilerInvocation.h"
#include "clang/Frontend/TextDiagnosticBuffer.h"
#include "clang/Frontend/TextDiagnosticPrinter.h"
#include "clang/Options/Options.h"
#include "llvm/Plugins/PassPlugin.h"
#include "llvm/Support/CommandLine.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/InitLLVM.h"
#include "llvm/Support/ManagedStatic.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/VirtualFileSystem.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/TargetParser/Host.h"

using namespace clang;

// compile: `clang -cc1 ARGUMENT...`.
static int compile(llvm::ArrayRef<const char *> arguments, const char *program) {
	llvm::InitializeAllTargets();
	llvm::InitializeAllTargetMCs();
	llvm::InitializeAllAsmPrinters();
	llvm::InitializeAllAsmParsers();
	auto invocation = std::make_shared<CompilerInvocation>();
	DiagnosticOptions options;
	TextDiagnosticBuffer early;
	DiagnosticsEngine engine(DiagnosticIDs::create(), options, &early, false);
	bool understood = CompilerInvocation::CreateFromArgs(*invocation, arguments, engine, program);
	CompilerInstance instance(std::move(invocation));
	instance.createVirtualFileSystem();
	instance.createDiagnostics();
	early.FlushDiagnostics(instance.getDiagnostics());
	std::vector<const char *> options_of_llvm = {program};
	for (const std::string &word : instance.getFrontendOpts().LLVMArgs)
		options_of_llvm.push_back(word.c_str());
	llvm::cl::ParseCommandLineOptions(options_of_llvm.size(), options_of_llvm.data());
	EmitObjAction action;
	return understood && instance.ExecuteAction(action) ? 0 : 1;
}

static int drive(llvm::ArrayRef<const char *> arguments, const char *program) {
	static int mark;
	std::string path = llvm::sys::fs::getMainExecutable(program, &mark);
	unsigned missing, count;
	llvm::opt::InputArgList parsed = getDriverOptTable().ParseArgs(arguments.drop_front(), missing, count);
	DiagnosticOptions options;
	ParseDiagnosticArgs(options, parsed);
	TextDiagnosticPrinter printer(llvm::errs(), options);
	DiagnosticsEngine engine(DiagnosticIDs::create(), options, &printer, false);
	ProcessWarningOptions(engine, options, *llvm::vfs::getRealFileSystem(), false);
	driver::Driver driver(path, llvm::sys::getDefaultTargetTriple(), engine);
	auto in_process = [](llvm::SmallVectorImpl<const char *> &words) {
		return compile(llvm::ArrayRef<const char *>(words).drop_front(2), words[0]);
	};
	driver.CC1Main = in_process;
	std::unique_ptr<driver::Compilation> jobs(driver.BuildCompilation(arguments));
	llvm::SmallVector<std::pair<int, const driver::Command *>, 4> failed;
	if (!jobs || jobs->containsError())
		return 1;
	int code = driver.ExecuteCompilation(*jobs, failed);
	for (const auto &one : failed)
		code = code ? code : one.first;
	return code;
}

// Polly is no part of it.
llvm::PassPluginLibraryInfo getPollyPluginInfo() { return {LLVM_PLUGIN_API_VERSION, "none", "", [](llvm::PassBuilder &) {}}; }

int main(int count, const char **words) {
	llvm::InitLLVM start(count, words);
	llvm::ArrayRef<const char *> arguments(words, count);
	if (count > 1 && llvm::StringRef(words[1]) == "-cc1")
		return compile(arguments.drop_front(2), words[0]);
	return drive(arguments, words[0]);
}
