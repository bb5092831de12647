//! The program.
use std::{path::{Path, PathBuf}, sync::atomic::AtomicBool};
use genebank::{data::*, train::{*, run::*}, gene::*};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let root = PathBuf::from(std::env::var("GENEBANK_DATA").unwrap());
    let recipe = Recipe::open(Path::new(&args[2])).unwrap();
    let out = PathBuf::from(&args[3]);
    let data = Dataset::open(&recipe.data, &root).unwrap();
    let ckpt = out.with_extension("ckpt");
    let run = Run { recipe: &recipe, data: &data, threads: 2, checkpoint: Some(&ckpt), watch_held_out: true };
    let t = std::time::Instant::now();
    let mut report = |r: Report| match r {
        Report::Trainer(Event::Step { step, total, loss, norm }) => if step % 50 == 0 { eprintln!("{step}/{total} loss {loss:.4} norm {norm:.3} {:.1}s", t.elapsed().as_secs_f64()) },
        Report::HeldOut { epoch, accuracy } => println!("{:?} epoch {epoch} held-out {:.4} loss {:.4}  {:.0}s", out, accuracy.share(), accuracy.loss, t.elapsed().as_secs_f64()),
        r => println!("{r:?}"),
    };
    let cancel = AtomicBool::new(false);
    match args[1].as_str() {
        "train" => {
            let model = run.classify(&Model::fresh(&recipe, &data.train).unwrap(), &cancel, &mut report).unwrap();
            genebank::tensor::codec::write_atomic(&out, [genebank::tensor::codec::render(&model.info.metadata(), &model.weights.to_bytes(genebank::tensor::Dtype::F32).unwrap()).as_ref()]).unwrap();
        }
        "learn" => {
            let gene = recipe.gene.as_ref().unwrap();
            let teacher = Model::open(&Path::new(&args[2]).parent().unwrap().join(&gene.teacher)).unwrap();
            let (_, bytes) = run.learn(gene, &teacher, &cancel, &mut report).unwrap();
            genebank::tensor::codec::write_atomic(&out, [bytes.as_ref()]).unwrap();
        }
        "finetune" => {
            let gene = Learngene::open(Path::new(&args[4])).unwrap();
            let (info, weights) = gene.expand(&Size { depth: Some(args[5].parse().unwrap()), ..Size::default() }, &candle_core::Device::Cpu).unwrap();
            run.classify(&Model { info, weights }, &cancel, &mut report).unwrap();
        }
        _ => panic!(),
    }
}
